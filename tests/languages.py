"""A few passages in many scripts: the word that a query asks for, the passage that holds it, and others without it."""

from typing import NamedTuple


class Language(NamedTuple):
    """One language.

    Attributes:
        query: A query of the word, as people write it.
        holds: The passage that holds the word, in a form that this language's grammar may ask for.
        others: Passages of the same language that do not.
    """

    query: str
    holds: str
    others: list[str]


LANGUAGES = {
    "English": Language(
        "earthquakes", "An EARTHQUAKE shook the town.", ["Bread needs flour and yeast.", "Cats sleep all day long."]
    ),
    "German": Language(
        "Straßenbahn",
        "Die STRASSENBAHN fährt zum Bahnhof.",
        ["Brot braucht Mehl und Hefe.", "Der Hund schläft im Garten."],
    ),
    "French": Language(
        "forêt brûlée",
        "La forêt près du village est grande.",
        ["Le pain sort du four.", "Un chat dort dans le jardin."],
    ),
    "Turkish": Language(
        "ışık İstanbul", "ISTANBUL'da IŞIK festivali başladı.", ["Ekmek un ve maya ister.", "Kedi bütün gün uyur."]
    ),
    "Vietnamese": Language(
        "động đất", "Trận động đất làm rung chuyển thành phố.", ["Bánh mì cần bột và men.", "Con mèo ngủ cả ngày."]
    ),
    "Polish": Language("żółw", "Żółw żyje bardzo długo.", ["Chleb potrzebuje mąki.", "Kot śpi cały dzień."]),
    "Russian": Language(
        "землетрясение", "Землетрясение разрушило город.", ["Хлеб пекут из муки.", "Кошка спит весь день."]
    ),
    "Ukrainian": Language("їжак", "Їжак живе в лісі.", ["Хліб печуть з борошна.", "Кішка спить увесь день."]),
    "Greek": Language("σεισμός", "Ένας ΣΕΙΣΜΌΣ χτύπησε την πόλη.", ["Το ψωμί θέλει αλεύρι.", "Η γάτα κοιμάται."]),
    "Armenian": Language("երկրաշարժ", "Երկրաշարժ եղավ քաղաքում։", ["Հացը թխում են ալյուրից։", "Կատուն քնած է։"]),
    "Georgian": Language("მიწისძვრა", "მიწისძვრა მოხდა ქალაქში.", ["პური ფქვილისგან ცხვება.", "კატას სძინავს."]),
    "Arabic": Language("زلزال", "ضرب زلزال المدينة أمس.", ["الخبز يحتاج إلى الدقيق.", "القطة تنام طوال اليوم."]),
    "Persian": Language(
        "می‌لرزد", "زمین گاهی می‌لرزد و خانه‌ها فرو می‌ریزند.", ["نان از آرد پخته شد.", "گربه تمام روز خواب است."]
    ),
    "Urdu": Language("زلزلہ", "کل شہر میں زلزلہ آیا۔", ["روٹی آٹے سے بنتی ہے۔", "بلی دن بھر سوتی ہے۔"]),
    "Hebrew": Language("רעידת אדמה", "רעידת אדמה פגעה בעיר.", ["לחם צריך קמח ושמרים.", "החתול ישן כל היום."]),
    "Hindi": Language("दिल्ली", "दिल्ली भारत की राजधानी है।", ["रोटी आटे से बनती है।", "बिल्ली दिन भर सोती है।"]),
    "Marathi": Language("भूकंप", "काल शहरात भूकंप झाला.", ["भाकरी पिठाची असते.", "मांजर दिवसभर झोपते."]),
    "Bengali": Language("ভূমিকম্প", "শহরে ভূমিকম্প হয়েছে।", ["রুটি আটা দিয়ে তৈরি।", "বিড়াল সারাদিন ঘুমায়।"]),
    "Gujarati": Language("ધરતીકંપ", "ગઈકાલે ધરતીકંપ આવ્યો.", ["રોટલી લોટમાંથી બને છે.", "બિલાડી ઊંઘે છે."]),
    "Punjabi": Language("ਭੁਚਾਲ", "ਸ਼ਹਿਰ ਵਿੱਚ ਭੁਚਾਲ ਆਇਆ।", ["ਰੋਟੀ ਆਟੇ ਤੋਂ ਬਣਦੀ ਹੈ।", "ਬਿੱਲੀ ਸੌਂਦੀ ਹੈ।"]),
    "Tamil": Language("நிலநடுக்கம்", "நகரில் நிலநடுக்கம் ஏற்பட்டது.", ["ரொட்டிக்கு மாவு தேவை.", "பூனை தூங்குகிறது."]),
    "Telugu": Language("భూకంపం", "నగరంలో భూకంపం వచ్చింది.", ["రొట్టె పిండితో చేస్తారు.", "పిల్లి నిద్రపోతుంది."]),
    "Kannada": Language("ಭೂಕಂಪ", "ನಗರದಲ್ಲಿ ಭೂಕಂಪ ಸಂಭವಿಸಿತು.", ["ರೊಟ್ಟಿಗೆ ಹಿಟ್ಟು ಬೇಕು.", "ಬೆಕ್ಕು ಮಲಗುತ್ತದೆ."]),
    "Malayalam": Language("ഭൂകമ്പം", "നഗരത്തിൽ ഭൂകമ്പം ഉണ്ടായി.", ["റൊട്ടിക്ക് മാവ് വേണം.", "പൂച്ച ഉറങ്ങുന്നു."]),
    "Sinhala": Language("ශ්‍රී ලංකාව", "ශ්‍රී ලංකාව දූපතකි.", ["පාන් පිටි වලින් සාදයි.", "පූසා නිදයි."]),
    "Tibetan": Language("ས་ཡོམ།", "གྲོང་ཁྱེར་ལ་ས་ཡོམ་བརྒྱབ།", ["བག་ལེབ་བཟོ།", "ཞི་མི་གཉིད་ཉལ།"]),
    "Amharic": Language("ርዕደ መሬት", "በከተማው ርዕደ መሬት ተከሰተ።", ["ዳቦ ዱቄት ይፈልጋል።", "ድመት ይተኛል።"]),
    "Mongolian": Language("ᠭᠠᠵᠠᠷ", "ᠭᠠᠵᠠᠷ ᠬᠥᠳᠡᠯᠡᠪᠡ᠃", ["ᠮᠣᠷᠢ ᠭᠦᠶᠦᠪᠡ᠃", "ᠬᠦᠮᠦᠨ ᠢᠷᠡᠪᠡ᠃"]),
    "Korean": Language("지진의 원인", "어제 지진이 도시를 흔들었다.", ["빵은 밀가루로 만든다.", "고양이는 종일 잔다."]),
    "Chinese": Language("地震", "昨天城市发生了强烈地震。", ["面包需要面粉和酵母。", "我的猫整天睡觉。"]),
    "Taiwan": Language("颱風", "昨晚颱風侵襲了北部。", ["麵包需要麵粉。", "我家的貓整天睡覺。"]),
    "Japanese": Language(
        "台風", "昨夜、大型の台風が東京を襲った。", ["パンには小麦粉が必要です。", "猫は一日中寝ている。"]
    ),
    "Katakana": Language("コンピューター", "新しいコンピューターを買った。", ["パンを焼く。", "ネコが眠る。"]),
    "Thai": Language("แผ่นดินไหว", "เมื่อวานเกิดแผ่นดินไหวที่เชียงใหม่", ["ขนมปังใช้แป้งและยีสต์", "แมวนอนทั้งวัน"]),
    "Lao": Language("ແຜ່ນດິນໄຫວ", "ມື້ວານນີ້ເກີດແຜ່ນດິນໄຫວ", ["ເຂົ້າຈີ່ໃຊ້ແປ້ງ", "ແມວນອນໝົດມື້"]),
    "Khmer": Language("រញ្ជួយដី", "ម្សិលមិញមានការរញ្ជួយដីនៅទីក្រុង", ["នំប៉័ងត្រូវការម្សៅ", "ឆ្មាគេងពេញមួយថ្ងៃ"]),
    "Burmese": Language("ငလျင်", "မနေ့ကမြို့မှာငလျင်လှုပ်ခဲ့တယ်", ["ပေါင်မုန့်မှာဂျုံမှုန့်လိုတယ်", "ကြောင်ကတစ်နေ့လုံးအိပ်တယ်"]),
    "Javanese": Language("ꦭꦶꦤ꧀ꦝꦸ", "ꦮꦶꦁꦲꦶꦲꦤꦭꦶꦤ꧀ꦝꦸꦒꦼꦣꦺ", ["ꦫꦺꦴꦠꦶꦧꦸꦠꦸꦃ", "ꦏꦸꦕꦶꦁꦠꦸꦫꦸ"]),
}

#: Words of one character, and a passage within which they stand.
SINGLE = {
    "Chinese": Language("猫", "我的猫很可爱", ["面包需要面粉", "今天天气很好"]),
    "Chinese in a question": Language("猫的寿命有多长？", "我家有一只大猫。", ["面包需要面粉。", "今天下雨了。"]),
    "Japanese": Language("蚊", "夏は蚊が多い。", ["パンを焼く。", "雨が降る。"]),
    "Korean": Language("물", "물은 백 도에서 끓는다.", ["빵을 굽는다.", "고양이가 잔다."]),
    "Thai": Language("งู", "เขาถูกงูกัดเมื่อวาน", ["แมวนอนทั้งวัน", "ฝนตกหนัก"]),
    "Lao": Language("ນ້ຳ", "ຂ້ອຍດື່ມນ້ຳທຸກມື້", ["ແມວນອນ", "ຝົນຕົກໜັກ"]),
    "Burmese": Language("ရေ", "ငါရေသောက်တယ်", ["ကြောင်အိပ်တယ်", "မိုးရွာတယ်"]),
    "Khmer": Language("ដី", "ដំណាំដុះលើដីល្អ", ["ឆ្មាគេង", "ភ្លៀងធ្លាក់"]),
    "Hebrew": Language("ש", "האות ש היא אות.", ["לחם צריך קמח.", "החתול ישן."]),
    "Amharic": Language("ሰ", "ፊደል ሰ ነው።", ["ድመት ይተኛል።", "ዝናብ ዘነበ።"]),
    "Tibetan": Language("ས", "ས་ཞིང་ཆེན་པོ།", ["ཞི་མི་གཉིད་ཉལ།", "ཆར་པ་བབས།"]),
    "Greek letters": Language("β", "The β chain is long.", ["A cat sleeps.", "Bread needs flour."]),
}
